// Dark and light: the system's choice, until a person makes one.
const KEY = "rotanext-theme";
const system = matchMedia("(prefers-color-scheme: dark)");
const root = document.documentElement;

function stored() {
  try { return localStorage.getItem(KEY); } catch { return null; }
}

function store(theme) {
  try { localStorage.setItem(KEY, theme); } catch { /* a private window keeps nothing */ }
}

/** Follow the system or the person; `changed` hears of every change. */
export function startTheme(button, changed) {
  let choice = stored();
  const apply = () => {
    const dark = choice ? choice === "dark" : system.matches;
    root.dataset.shade = dark ? "dark" : "light";
    button.setAttribute("aria-pressed", String(dark));
    button.title = dark ? "Change to light" : "Change to dark";
    changed();
  };
  button.addEventListener("click", () => {
    choice = root.dataset.shade === "dark" ? "light" : "dark";
    store(choice);
    apply();
  });
  system.addEventListener("change", apply);
  apply();
}
