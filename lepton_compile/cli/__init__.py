"""The command line, `lepton`: a file per command, each calls one public function and prints the result."""
