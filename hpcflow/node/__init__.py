"""What runs on the cluster, from one zipapp: the worker of an array task, and the scheduler of the `local` cluster."""
