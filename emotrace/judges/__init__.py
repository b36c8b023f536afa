"""Judges: blind readers of replies. None is ever told which emotion was asked for."""
