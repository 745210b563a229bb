"""The agent as a file to download: one executable that needs no Python. `python -m agent_binary` makes `dist/`.

lock → an environment of its own → frozen (PyInstaller) → one executable (`launcher.c`) → archive and checksums
"""
