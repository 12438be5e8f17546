"""Gastown keeps a fleet of AI coding agents working on git repositories, unattended."""
