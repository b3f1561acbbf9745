"""Pure code: values in, values out. Nothing here waits, reads a clock, draws a random number or touches a file."""
