"""A detector as a web service with a page (extra `serve`)."""
