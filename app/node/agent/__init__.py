"""The node agent: runs on the rented machine, standard library of Python 3.8 only, shipped as one .pyz."""
