"""Files that ship with the package: recipes (in a wheel), the embedded checkpoint, and the script that made it."""
