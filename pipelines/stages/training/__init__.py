"""Pretraining: models, optimizers, objectives, one loop, and the engine (DeepSpeed under Ray Train) it runs on."""
