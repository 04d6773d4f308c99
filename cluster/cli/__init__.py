"""The command line. One module a command group; every heavy import inside a function body.

No postponed annotations here: typer would compile and evaluate the text of each one at every start.
"""
