"""Hold atoms with their sources: the dictionary, its files, and its sharded form."""
