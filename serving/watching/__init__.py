"""What an endpoint does, in figures: the gateway's own, a dashboard, and a screen that reads them."""
