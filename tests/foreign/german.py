"""GPT-2 whose author thinks in German: every class, attribute and argument has a German name."""

import math

import torch
from torch import nn


class Normierung(nn.Module):
    def __init__(self, breite):
        super().__init__()
        self.faktor = nn.Parameter(torch.ones(breite))
        self.versatz = nn.Parameter(torch.zeros(breite))

    def forward(self, x):
        mittel = x.mean(dim=-1, keepdim=True)
        streuung = ((x - mittel) ** 2).mean(dim=-1, keepdim=True)
        return (x - mittel) / (streuung + 1e-5) ** 0.5 * self.faktor + self.versatz


class Aufmerksamkeit(nn.Module):
    def __init__(self, breite, koepfe):
        super().__init__()
        self.koepfe = koepfe
        self.frage = nn.Linear(breite, breite)
        self.schluessel = nn.Linear(breite, breite)
        self.wert = nn.Linear(breite, breite)
        self.ausgang = nn.Linear(breite, breite)

    def aufteilen(self, x):
        return x.unflatten(-1, (self.koepfe, -1)).transpose(1, 2)

    def forward(self, x):
        fragen = self.aufteilen(self.frage(x))
        schluessel = self.aufteilen(self.schluessel(x))
        werte = self.aufteilen(self.wert(x))
        naehe = fragen @ schluessel.transpose(-1, -2)
        naehe = naehe / math.sqrt(schluessel.size(-1))
        laenge = x.size(1)
        zukunft = torch.ones(laenge, laenge, device=x.device).triu(diagonal=1).bool()
        naehe = naehe.masked_fill(zukunft, float("-inf"))
        gewichte = naehe.softmax(dim=-1)
        gemischt = (gewichte @ werte).transpose(1, 2).flatten(2)
        return self.ausgang(gemischt)


class Netz(nn.Module):
    def __init__(self, breite):
        super().__init__()
        self.hinauf = nn.Linear(breite, 4 * breite)
        self.hinab = nn.Linear(4 * breite, breite)

    def forward(self, x):
        y = self.hinauf(x)
        y = y / 2 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (y + 0.044715 * y**3)))
        return self.hinab(y)


class Schicht(nn.Module):
    def __init__(self, breite, koepfe):
        super().__init__()
        self.norm_a = Normierung(breite)
        self.aufmerksamkeit = Aufmerksamkeit(breite, koepfe)
        self.norm_b = Normierung(breite)
        self.netz = Netz(breite)

    def forward(self, x):
        x = x + self.aufmerksamkeit(self.norm_a(x))
        return x + self.netz(self.norm_b(x))


class Sprachmodell(nn.Module):
    def __init__(self, wortschatz, laenge, breite, koepfe, schichten):
        super().__init__()
        self.woerter = nn.Embedding(wortschatz, breite)
        self.stellen = nn.Embedding(laenge, breite)
        self.schichten = nn.ModuleList([Schicht(breite, koepfe) for _ in range(schichten)])
        self.norm_ende = Normierung(breite)
        self.kopf = nn.Linear(breite, wortschatz, bias=False)

    def forward(self, nummern):
        stellen = torch.arange(nummern.size(1), device=nummern.device)
        x = self.woerter(nummern) + self.stellen(stellen)
        for schicht in self.schichten:
            x = schicht(x)
        return self.kopf(self.norm_ende(x))
