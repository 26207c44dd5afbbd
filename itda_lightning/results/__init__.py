"""Hold every measurement as plain, typed data: no model and no torch module is needed to read it."""
