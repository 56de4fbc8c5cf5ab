"""What relay and collector share: the tables, the messages, the configuration, the connection to NATS."""
