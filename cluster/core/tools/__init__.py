"""Tools that models call: a calculator, a solver of equations, search, Python in the sandbox."""
