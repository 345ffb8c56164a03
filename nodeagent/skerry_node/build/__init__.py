"""Images from Dockerfiles: parsing, planning, layers made of copies. How RUN runs is the agent's; here it is a protocol."""
