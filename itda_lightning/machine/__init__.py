"""Know the machine: files that appear whole, processes of one run, memory, versions, and how a command runs."""
