"""Synthetic posts of a neighbourhood: personas and topics, written by a model, in several languages, none like another."""
