"""What disturbs an engine under proof: the mock exchange and the nemesis."""
