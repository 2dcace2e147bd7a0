"""Objectives: Decisions -> Loss."""
