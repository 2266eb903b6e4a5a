package peerbook

// share does nothing: a file inherits who may read it from its folder here.
func share(path, folder string) error { return nil }
