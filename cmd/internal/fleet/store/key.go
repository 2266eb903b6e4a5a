package store

import (
	"fmt"
	"strings"
)

// maxKey bounds a key, bytes: it is the name of a file in a Dir.
const maxKey = 200

// CheckKey returns an error if a key is not words of a-z, A-Z, 0-9, - and _, joined by dots.
func CheckKey(key string) error {
	if len(key) > maxKey {
		return fmt.Errorf("the key %.40s... has %d characters, at most %d", key, len(key), maxKey)
	}
	for word := range strings.SplitSeq(key, ".") {
		if word == "" || strings.ContainsFunc(word, isForeign) {
			return fmt.Errorf("the key %q is not words of a-z, A-Z, 0-9, - and _, joined by dots", key)
		}
	}
	return nil
}

// CheckValue returns an error if a value is larger than MaxValue.
func CheckValue(key string, value []byte) error {
	if len(value) > MaxValue {
		return fmt.Errorf("the value of %s has %d bytes, at most %d: publish it as a blob", key, len(value), MaxValue)
	}
	return nil
}

// Below tells whether a key begins with the words of prefix. Every key begins with no words.
func Below(key, prefix string) bool {
	return prefix == "" || key == prefix || strings.HasPrefix(key, prefix+".")
}

func isForeign(r rune) bool {
	return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_')
}

// durable tells whether the values of a bucket must outlive a machine that loses its power.
func (b Bucket) durable() bool { return b != State && b != Sessions }
