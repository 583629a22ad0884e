"""One worker process: a single model, served over gRPC, told apart from its host by exec."""
