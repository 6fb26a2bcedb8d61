"""What adaptive limits are proved on: `queueing` has servers, clients, and a time of its own."""
