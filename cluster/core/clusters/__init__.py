"""Which clusters a user has (contexts, as kubeconfig has them), and which one is meant. Nothing here asks a cluster."""
