"""Why an object is as it is: a scene in, statements out. Pure."""
