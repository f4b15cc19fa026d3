"""What the program is made of: which packages, under which licences, with which known vulnerabilities."""
