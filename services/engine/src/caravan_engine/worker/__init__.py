"""The worker program: one model, served over gRPC, ending with its host."""
