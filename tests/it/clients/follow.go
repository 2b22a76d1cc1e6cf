// Follows an event stream by net/http: prints the type of each event, and how the stream ended.
package main

import (
	"bufio"
	"fmt"
	"net/http"
	"os"
	"strings"
)

func main() {
	answer, err := http.Get(os.Args[1])
	if err != nil {
		panic(err)
	}
	lines := bufio.NewScanner(answer.Body)
	for lines.Scan() {
		if kind, found := strings.CutPrefix(lines.Text(), "event: "); found {
			fmt.Println("event", kind)
		}
	}
	if err := lines.Err(); err != nil {
		fmt.Println("error", err)
	} else {
		fmt.Println("end")
	}
}
