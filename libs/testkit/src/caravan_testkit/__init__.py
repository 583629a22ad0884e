"""What Caravan's tests share: tiny models, a fake clock, bounded waiting, temporary homes."""
