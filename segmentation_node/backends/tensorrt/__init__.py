"""TensorRT, from 8.2 to 11: the backend, its engines and how they are built."""
