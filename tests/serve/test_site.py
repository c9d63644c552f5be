"""The files of the page."""


def test_the_page_has_nothing_of_other_hosts() -> None:
    from rotanext.serve.site import page_files

    files = page_files()
    assert {"index.html", "style.css", "main.js", "icon.svg"} <= set(files)
    for name, (data, _) in files.items():
        text = data.decode().replace("http://www.w3.org/2000/svg", "")
        assert "http://" not in text, name
        assert "https://" not in text, name
        assert "style=" not in text or name.endswith(".js"), name
