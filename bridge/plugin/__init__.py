"""The DAW plugin: C++ sources, and Python code to install it and to run its server."""
