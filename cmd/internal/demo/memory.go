package demo

import (
	"context"
	"errors"
)

func newMemoryWorld(ctx context.Context) (world, error) { return nil, errors.ErrUnsupported }
