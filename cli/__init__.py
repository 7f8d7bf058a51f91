"""The command line, and the commands that run Busbar's services."""
