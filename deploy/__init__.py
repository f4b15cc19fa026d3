"""How the program gets onto a machine: the Dockerfile tried without an engine, the configuration of nginx, Kubernetes."""
