"""The studio: the server's jobs in a browser, by Gradio. Its beginning is page.mount."""
