"""The steps of the method, each one public function."""
