// Package config reads a penstock configuration file into plain structs.
//
// It is the only package that knows YAML. It is strict: an unknown key, a wrong type, a secret that others can read or
// a reference to something that does not exist is an error which names file, line, column and the mend, and all errors
// of a file are reported at once. Defaults are filled in, the ten-line laptop form is expanded to the full one, relative
// paths become relative to the file that names them.
//
// It does not open devices, resolve names, fetch lists or compile rules, and it does not read transports' own files
// beyond what the laptop form needs.
package config
