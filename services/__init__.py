"""The services, one package a role. They never import each other."""
