package config

// Load reads the file at path with its includes, fills in defaults, expands the laptop form and checks what can be
// checked without touching the host. The error is a *Error that prints every fault with its place and mend.
func Load(path string) (*Config, error) {
	panic("not yet")
}
