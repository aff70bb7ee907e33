"""track: wires the path from sensors to store around the user's code, and guards that code."""
