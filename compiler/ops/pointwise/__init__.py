"""One element of the output from the elements at the same place of the inputs."""
