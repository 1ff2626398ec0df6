"""The command line, `lepton`: a file per command, each of which calls one public function and prints what it returns."""
