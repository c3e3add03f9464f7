"""What is declared about tasks: resources, images, caching, and the other options."""
