"""Schedules: one method over the steps of a plan - growing forget sets, or requests one after another."""
