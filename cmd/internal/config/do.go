package config

import (
	"errors"
	"fmt"
)

func (d *Do) setScalar(text string) error {
	switch text {
	case "block", "drop", "direct", "dns":
		d.Action = text
		return nil
	case "via":
		return errors.New("via needs the name of a transport: write {via: NAME}")
	}
	return fmt.Errorf("%q is none of block, drop, direct and dns: a transport is written {via: %s}", text, text)
}

// String returns d as a rule writes it, without its further settings.
func (d Do) String() string {
	if d.Action == "via" {
		return "via " + d.Via
	}
	return d.Action
}
