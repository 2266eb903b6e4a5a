// Package config reads a penstock configuration file into plain structs.
//
// It is the only package that knows YAML, and it is strict. An unknown key, a wrong type, a secret that others can read, or
// a reference to something that does not exist is an error with file, line, column and mend. All errors of a file are
// reported at once. Defaults are filled in, the short form for laptops is expanded to the full one, and relative paths are
// resolved against the file that they are written in.
//
// To read it, start at Load: load.go finds the files, decode.go fills the structs, expand.go writes out the short form, and
// check*.go find what does not fit together. The other files are the structs, one section of the configuration each.
//
// It does not open devices, resolve names, fetch lists or compile rules, and it does not read transports' own files
// beyond what the short form needs.
package config
