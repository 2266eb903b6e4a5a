package config

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"penstock/cmd/internal/private"
)

// Size is a number of bytes, written as 512, 16KiB, 10MiB or 1GiB.
type Size int64

// UnmarshalText reads a number with an optional unit.
func (s *Size) UnmarshalText(text []byte) error {
	number, factor := string(text), int64(1)
	for unit, f := range map[string]int64{"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30} {
		if n, ok := strings.CutSuffix(number, unit); ok {
			number, factor = n, f
		}
	}
	n, err := strconv.ParseInt(strings.TrimSpace(number), 10, 64)
	if err != nil || n < 0 || n > (1<<62)/factor {
		return errors.New("a size is a number with KiB, MiB or GiB, for example 10MiB")
	}
	*s = Size(n * factor)
	return nil
}

// String writes the size with the largest unit that divides it.
func (s Size) String() string {
	for _, u := range []struct {
		name   string
		factor Size
	}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}} {
		if s > 0 && s%u.factor == 0 {
			return fmt.Sprintf("%d%s", s/u.factor, u.name)
		}
	}
	return strconv.FormatInt(int64(s), 10)
}

// maxSecret bounds a file that holds a secret, bytes.
const maxSecret = 64 << 10

// Secret says where a secret is kept. It never holds or prints the secret itself.
type Secret struct {
	// File holds the secret and nothing else. Only its owner may be able to read it.
	File string `yaml:"file" path:"file"`
	// Env is the name of an environment variable that holds the secret.
	Env string `yaml:"env"`
}

// IsZero reports whether no secret is configured.
func (s Secret) IsZero() bool { return s == Secret{} }

// Read returns the secret without the space around it. The zero Secret is an empty string.
func (s Secret) Read() (string, error) {
	switch {
	case s.File != "":
		data, err := private.ReadText(s.File, maxSecret)
		if err != nil {
			return "", err
		}
		value := strings.TrimSpace(string(data))
		if value == "" {
			return "", fmt.Errorf("secret file %s is empty", s.File)
		}
		return value, nil
	case s.Env != "":
		value := strings.TrimSpace(os.Getenv(s.Env))
		if value == "" {
			return "", fmt.Errorf("environment variable %s, which should hold a secret, is not set", s.Env)
		}
		return value, nil
	}
	return "", nil
}

func (s *Secret) setScalar(string) error {
	return errors.New("a secret is not written into the configuration: write {file: PATH} or {env: NAME}")
}
