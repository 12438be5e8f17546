"""The product, driven with histories of the executable specification of its dispatch protocol (docs/refinement.md)."""
