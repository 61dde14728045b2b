"""What every process of afr shares about gRPC: channels, errors, servers."""
