"""A static folder that runs an exported model in a browser.

``preparation`` translates the test pipeline for the page, ``runtime_files`` gets onnxruntime-web,
``folder`` writes the folder, and ``page/`` holds the page itself.
"""
