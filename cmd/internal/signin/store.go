package signin

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"penstock/cmd/internal/private"
)

// maxStore bounds the file of sessions, bytes.
const maxStore = 16 << 20

// header begins the file of sessions, and is authenticated with it.
const header = "penstock sessions 1\n"

// store is the file of sessions. It holds tokens with which the provider is asked, so it is sealed with AES-256-GCM, by a key that
// only the gateway's private key leads to. A file that was changed, or that another gateway wrote, cannot be opened.
type store struct{ aead cipher.AEAD }

func newStore(key string) (store, error) {
	derived, err := hkdf.Key(sha256.New, []byte(key), nil, "penstock sessions", 32)
	if err != nil {
		return store{}, err
	}
	block, err := aes.NewCipher(derived)
	if err != nil {
		return store{}, err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	return store{aead}, err
}

// load reads the sessions that are not over. A file that is not there holds none.
func (s *sessions) load(path string, now time.Time) error {
	data, err := private.Read(path, maxStore)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	list, err := s.store.open(data)
	if err != nil {
		return err
	}
	s.change(func(m map[string]*Session) {
		for _, one := range list {
			if one.Peer != "" && one.User != "" && now.Before(one.Until) {
				m[one.Peer] = &one
			}
		}
	})
	return nil
}

func (s store) open(data []byte) (list []Session, err error) {
	if len(data) < len(header) || string(data[:len(header)]) != header {
		return nil, errors.New("it is not a file of sessions")
	}
	text, err := s.aead.Open(nil, nil, data[len(header):], []byte(header))
	if err != nil {
		return nil, errors.New("it was damaged, or written with another key in listen.wireguard.private_key")
	}
	return list, json.Unmarshal(text, &list)
}

// save writes the sessions that are not over, as a whole or not at all.
func (s *sessions) save(path string, now time.Time) error {
	s.saving.Lock()
	defer s.saving.Unlock()
	list := []Session{}
	for _, one := range *s.byPeer.Load() {
		if now.Before(one.Until) {
			list = append(list, *one)
		}
	}
	text, err := json.Marshal(list)
	if err != nil {
		return err
	}
	data := s.store.aead.Seal([]byte(header), nil, text, []byte(header))
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return private.Replace(path, string(data))
}

// secret returns 32 random bytes as text.
func secret() string { return rand.Text() + rand.Text() }
